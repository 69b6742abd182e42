"""What happens in an outer step, wherever it happens. No ray, no mlflow."""
