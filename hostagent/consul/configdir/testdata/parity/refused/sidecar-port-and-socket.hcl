service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port        = 21010
      socket_path = "/run/sidecar.sock"
    }
  }
}
