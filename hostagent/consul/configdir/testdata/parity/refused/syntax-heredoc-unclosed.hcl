service {
  name = "web"
  meta {
    text = <<EOF
hello
  }
}
