service {
  name = "web"
  port = 8080
  connect {
    sidecar_service { socket_path = "/run/sidecar.sock" }
  }
}
