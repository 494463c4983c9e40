datacenter = "dc 1"
