"""The command line and what it shows: a sweep's sheet and page, plots, animations."""
