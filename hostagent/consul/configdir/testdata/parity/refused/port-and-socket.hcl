service {
  name        = "web"
  port        = 8080
  socket_path = "/run/web.sock"
}
