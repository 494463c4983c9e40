service {
  name = "a"
  port = 1
}
service {
  name = "b"
  port = 2
}
