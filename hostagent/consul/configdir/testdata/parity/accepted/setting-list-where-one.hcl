node_name = ["a"]
