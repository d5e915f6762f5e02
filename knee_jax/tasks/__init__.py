"""What each system optimises and reports; a task's file name is its name in a config."""
