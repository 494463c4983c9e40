service {
  name = "web"
  port = 8080
  tagged_addresses {
    wan_ipv4 { address = "web.example.com" }
  }
}
