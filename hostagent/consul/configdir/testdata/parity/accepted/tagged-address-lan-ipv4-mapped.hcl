service {
  name = "web"
  port = 80
  tagged_addresses {
    lan_ipv4 {
      address = "::ffff:10.0.0.1"
      port = 80
    }
  }
}
