node_name = "second"
ports { dns = -1 }
