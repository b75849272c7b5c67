"""The command line: one verb per file. Importing them imports nothing heavy (torch, ray, mlflow, transformers)."""
