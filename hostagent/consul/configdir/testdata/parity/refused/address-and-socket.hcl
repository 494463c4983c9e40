service {
  name        = "web"
  address     = "10.0.0.9"
  socket_path = "/run/web.sock"
}
