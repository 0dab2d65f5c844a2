"""What forgetting costs other texts: forecasts against measurements, and every operator at equal forgetting."""
