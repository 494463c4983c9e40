bind_addr      = "::1"
advertise_addr = "fd00::1"
