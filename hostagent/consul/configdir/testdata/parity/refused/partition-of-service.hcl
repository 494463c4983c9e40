service {
  name      = "web"
  partition = "part-a"
  port      = 8080
}
