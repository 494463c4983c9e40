service {
  name = "web"
  port = 8080
  tagged_addresses {
    lan_ipv6 { address = "10.0.0.9" }
  }
}
