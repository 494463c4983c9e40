service {
  name        = "web"
  port        = 0
  socket_path = "/run/web.sock"
}
