service {
  name = "web"
  port = 8080
  meta { a = "1" }
  meta { b = "2" }
}
