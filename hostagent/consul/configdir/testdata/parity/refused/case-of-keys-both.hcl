service {
  name = "a"
  port = 1
}
Service {
  name = "b"
  port = 2
}
