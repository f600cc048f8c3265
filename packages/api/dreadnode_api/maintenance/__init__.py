"""What a server does for itself: tidying up, and copies of all that it keeps."""
