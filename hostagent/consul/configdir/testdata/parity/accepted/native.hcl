service {
  name = "pay"
  port = 8443
  connect { native = true }
}
