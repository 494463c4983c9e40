service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        mode = "transparent"
        transparent_proxy {
          outbound_listener_port = 22500
          dialed_directly        = true
        }
      }
    }
  }
}
