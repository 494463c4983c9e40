bind_addr = "eth0"
