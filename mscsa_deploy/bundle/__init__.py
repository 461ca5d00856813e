"""What is shipped: a directory or zip with a manifest, every file hashed."""
