service {
  name = "web"
  port = 8080
  meta { consul-version = "1" }
}
