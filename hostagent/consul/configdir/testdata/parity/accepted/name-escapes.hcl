service {
  name = "we\u0062\t\"x\""
  port = 8080
}
