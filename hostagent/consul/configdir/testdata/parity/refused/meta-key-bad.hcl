service {
  name = "web"
  port = 8080
  meta { "my key" = "1" }
}
