advertise_addr = "{{ GetInterfaceIP \"lo\" }}"
