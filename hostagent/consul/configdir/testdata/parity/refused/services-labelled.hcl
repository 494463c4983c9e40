services "a" {
  name = "a"
  port = 1
}
