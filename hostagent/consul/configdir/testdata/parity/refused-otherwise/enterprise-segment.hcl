segment = "alpha"
