# The address of an interface, which depends on the host.
bind_addr      = "0.0.0.0"
advertise_addr = " 10.1.2.3 "

# For the tests: another agent has 8301 on an address of its own.
ports { serf_lan = 9302 }
