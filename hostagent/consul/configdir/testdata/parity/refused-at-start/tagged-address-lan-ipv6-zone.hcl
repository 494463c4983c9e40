service {
  name = "web"
  port = 80
  tagged_addresses {
    lan_ipv6 {
      address = "fe80::1%eth0"
      port = 80
    }
  }
}
