"""What people look at: MLflow opened on a search."""
