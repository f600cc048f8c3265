"""What training means here: the catalog, the checks and the routes of jobs."""
