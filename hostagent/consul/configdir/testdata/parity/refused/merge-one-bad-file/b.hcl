service {
  name = "b"
  port = "2"
}
