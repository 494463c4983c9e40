service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        config { bind_port = "0x54C4" }
      }
    }
  }
}
