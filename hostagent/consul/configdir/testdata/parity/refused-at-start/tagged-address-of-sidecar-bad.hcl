service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      tagged_addresses {
        lan_ipv4 { address = "web" }
      }
    }
  }
}
