service {
  name = "web"
  port = 8080
  tagged_addresses {
    lan_ipv4 { address = "fd00::9" }
  }
}
