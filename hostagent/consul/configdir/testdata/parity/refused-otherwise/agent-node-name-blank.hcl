node_name = " "
