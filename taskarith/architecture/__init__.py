"""What a model is in memory and how its files hold it, as transformers and PEFT say."""
