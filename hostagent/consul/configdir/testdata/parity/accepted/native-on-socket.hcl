service {
  name        = "pay"
  socket_path = "/run/pay.sock"
  connect { native = true }
}
