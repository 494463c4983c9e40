service {
  name = "web"
  port = 8080
  locality { zone = "a" }
}
