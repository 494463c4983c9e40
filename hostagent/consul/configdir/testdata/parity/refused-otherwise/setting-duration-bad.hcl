check_update_interval = "5 minutes"
