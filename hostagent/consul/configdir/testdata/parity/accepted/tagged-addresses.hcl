service {
  name = "web"
  port = 8080
  tagged_addresses {
    lan {
      address = "10.0.0.9"
      port    = 8080
    }
    wan = { address = "192.0.2.9", port = 80 }
    lan_ipv6 { address = "fd00::9" }
    virtual {
      address = "240.0.0.1"
    }
  }
  connect { sidecar_service {} }
}
