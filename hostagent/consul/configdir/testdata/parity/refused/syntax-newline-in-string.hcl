service {
  name = "we
b"
}
