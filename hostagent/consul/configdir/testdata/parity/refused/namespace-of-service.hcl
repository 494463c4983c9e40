service {
  name      = "web"
  namespace = "team-a"
  port      = 8080
}
