service {
  name = "pay"
  connect { native = true }
}
