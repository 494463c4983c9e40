server = "yes"
