"""What people look at: tables and plots made from results."""
