service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        config {
          bind_port    = 21700
          bind_address = "0.0.0.0"
        }
      }
    }
  }
}
