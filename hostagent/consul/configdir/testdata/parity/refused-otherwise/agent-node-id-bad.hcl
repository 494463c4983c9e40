node_id = "host-1"
