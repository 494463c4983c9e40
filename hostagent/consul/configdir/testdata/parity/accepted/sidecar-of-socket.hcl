service {
  name        = "web"
  socket_path = "/run/web.sock"
  connect {
    sidecar_service {}
  }
}
