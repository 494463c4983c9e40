service {
  name = "web"
  port = 9223372036854775808
}
